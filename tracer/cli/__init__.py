"""The command line: one module per verb, shared options in one place."""
