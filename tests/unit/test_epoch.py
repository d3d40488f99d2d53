"""Records of the log as rows: what bpf/log.h says where their bits are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from tracer.kernel.epoch import CALLED, Epoch, PolicyCall, decode, policy_hash
from tracer.model.policy import F_STATIC_NODES, Mode

RECORD = np.dtype(
    [
        ("key", np.uint64),
        ("value", np.uint64),
        ("kind", np.uint32),
        ("target", np.uint32),
        ("touches", np.uint32),
        ("unresolved", np.uint32),
        ("faults", np.uint32, (16,)),
    ]
)
REGION, PLACED, CALL = 1, 8, 9
TARGET = 4097
NODES = 2


def record(kind: int, key: int, value: int, words: npt.NDArray[np.uint32]) -> npt.NDArray[np.void]:
    made = np.zeros(1, RECORD)
    made["key"], made["value"], made["kind"], made["target"], made["faults"] = key, value, kind, TARGET, words
    return made


def bitmap(*pages: int) -> npt.NDArray[np.uint32]:
    words = np.zeros(16, np.uint32)
    for page in pages:
        words[page // 32] |= np.uint32(1 << page % 32)
    return words


def test_placed_pages_are_bits_of_the_region() -> None:
    value = 4 | 0xABC << 4 | 0xFEDC << 16 | 0xFFFFFFFF << 32
    rows = np.concatenate(
        [record(PLACED, 0x7FFF12345, value, bitmap(0, 31, 32, 511)), record(PLACED, 512, 0, bitmap(*range(512)))]
    )
    (placed,) = decode(rows, NODES).targets[TARGET].placed
    assert placed.address.tolist() == [0x7FFF12345000, 2 << 20]
    assert placed.kind.tolist() == [4, 0]
    assert placed.sequence.tolist() == [0xABC, 0]
    assert placed.policy.tolist() == [0xFEDC, 0]
    assert placed.thread.tolist() == [0xFFFFFFFF, 0]
    assert placed.pages.shape == (2, 512)
    assert np.flatnonzero(placed.pages[0]).tolist() == [0, 31, 32, 511]
    assert placed.pages[1].all()


def called(time: int, call: int, mode: int, flags: int, nodes: list[int], result: int = 0) -> npt.NDArray[np.uint32]:
    made = np.zeros(1, CALLED)
    made["time"], made["thread"], made["call"], made["sequence"] = time, 77, call, 4096 + 5
    made["mode"], made["flags"], made["nodes"], made["result"] = mode, flags, nodes, result
    return made.view(np.uint32)


def test_calls_that_set_policies_come_in_order_of_time() -> None:
    later = called(30, 237, Mode.BIND | F_STATIC_NODES, 2, [1 << 3, 1, 0, 1 << 63])
    first = called(20, 238, Mode.INTERLEAVE, 0, [3, 0, 0, 0], -22)
    last = called(40, 450, 0, 0, [2, 0, 0, 0])
    rows = np.concatenate([record(CALL, 4096, 8192, later), record(CALL, 0, 0, first), record(CALL, 1, 2, last)])
    assert decode(rows, NODES).targets[TARGET].calls == [
        PolicyCall(20, 77, "set_mempolicy", 0, 0, Mode.INTERLEAVE, 0, (0, 1), -22, 5),
        PolicyCall(30, 77, "mbind", 4096, 8192, Mode.BIND, F_STATIC_NODES, (3, 64, 255), 0, 5, 2),
        PolicyCall(40, 77, "set_mempolicy_home_node", 1, 2, -1, 0, (1,), 0, 5),
    ]


def test_a_called_record_fits_in_place_of_the_bitmap() -> None:
    assert CALLED.itemsize == 64


def test_later_epochs_are_added() -> None:
    whole = Epoch()
    for time in (10, 20):
        call = record(CALL, 0, 0, called(time, 238, 0, 0, [0] * 4))
        whole.absorb(decode(np.concatenate([call, record(PLACED, time, 0, bitmap(1))]), NODES))
    drained = whole.targets[TARGET]
    assert [call.time_ns for call in drained.calls] == [10, 20]
    assert [rows.address.tolist() for rows in drained.placed] == [[10 << 12], [20 << 12]]


def test_a_log_without_them_has_neither() -> None:
    drained = decode(record(REGION, 512, 0, bitmap()), NODES).targets[TARGET]
    assert drained.regions.tolist() == [1]
    assert drained.placed == []
    assert drained.calls == []


@pytest.mark.parametrize("pointer", [1, 0xFFFF888100012340, (1 << 64) - 1])
def test_the_hash_of_a_policy_is_16_bits_and_not_0(pointer: int) -> None:
    assert 0 < policy_hash(pointer) < 1 << 16


def test_only_no_policy_hashes_to_0() -> None:
    assert policy_hash(0) == 0
    # An address whose product has no bits above 48: it shares the hash 1.
    inverse = pow(0x9E3779B97F4A7C15, -1, 1 << 64)
    assert policy_hash(inverse) == 1
