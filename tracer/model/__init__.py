"""Pure descriptions of a target's memory: VMAs, policies, spans, snapshots. No I/O, no clock."""
