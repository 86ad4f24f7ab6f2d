"""What one reading of a GPU becomes on `/metrics`: only what is known, with closed labels."""

import pytest
from stoker.telemetry import gpu_table as table
from stoker.telemetry.gpu_reading import (
    CLOCKS_EVENT_REASONS,
    XID_CLASSES,
    Gpu,
    GpuCounts,
    GpuReading,
    XidClass,
    figures,
    merged,
    xid_class,
)

from tests.filled_metrics import GPU, READING

SLICE = Gpu("MIG-6f1b0b6c-0000-5555-8888-0016d3cca427", "cuda:0", "A100 MIG", True, "580.95")


def test_a_figure_that_is_not_known_has_no_series() -> None:
    known = figures(GPU, GpuReading(), GpuCounts())

    assert set(known) == {table.GPU_INFO}


def test_every_gpu_metric_has_a_series_where_everything_is_known() -> None:
    counts = GpuCounts(energy_joules=0.0, hears_xids=True)
    counts.note_xid(79)

    assert set(figures(GPU, READING, counts)) == set(table.GPU_METRICS)


def test_every_series_has_the_labels_of_its_metric() -> None:
    counts = GpuCounts(energy_joules=0.0, hears_xids=True)
    counts.note_xid(79)

    for metric, series in figures(GPU, READING, counts).items():
        assert {len(labels) for labels in series} == {len(metric.labels)}, metric.name
        assert {labels[0] for labels in series} == {GPU.uuid}


def test_a_slice_is_told_from_a_gpu() -> None:
    (labels,) = figures(SLICE, GpuReading(), GpuCounts())[table.GPU_INFO]

    assert labels == (SLICE.uuid, "cuda:0", "A100 MIG", "mig", "580.95")


def test_a_figure_of_zero_is_shown() -> None:
    known = figures(GPU, GpuReading(utilization=0.0, ecc_corrected=0), GpuCounts())

    assert known[table.GPU_UTILIZATION] == {(GPU.uuid,): 0.0}
    assert known[table.GPU_ECC_ERRORS] == {(GPU.uuid, "corrected"): 0}


def test_each_reason_that_holds_the_clocks_down_is_1_and_the_others_are_0() -> None:
    reading = GpuReading(clocks_event_reasons=0x04 | 0x40 | 0x800)

    shown = figures(GPU, reading, GpuCounts())[table.GPU_CLOCKS_EVENT]

    assert {reason for (_, reason), value in shown.items() if value} == {
        "sw_power_cap",
        "hw_thermal",
    }
    assert len(shown) == len(CLOCKS_EVENT_REASONS)


def test_the_help_names_every_reason_and_class() -> None:
    for reason in CLOCKS_EVENT_REASONS.values():
        assert reason in table.GPU_CLOCKS_EVENT.help
    for each in XidClass:
        assert each.value in table.GPU_XID_ERRORS.help


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (31, XidClass.APPLICATION),
        (48, XidClass.MEMORY),
        (74, XidClass.LINK),
        (119, XidClass.FIRMWARE),
        (79, XidClass.LOST),
        (12_345, XidClass.OTHER),
    ],
)
def test_an_xid_error_has_a_class(number: int, expected: XidClass) -> None:
    assert xid_class(number) is expected


def test_xid_errors_are_counted_by_class_and_by_number() -> None:
    counts = GpuCounts(hears_xids=True)
    for number in (13, 79, 13, 500, 501):
        counts.note_xid(number)

    known = figures(GPU, GpuReading(), counts)

    by_class = {labels[1]: value for labels, value in known[table.GPU_XID_ERRORS].items()}
    assert by_class == {
        "application": 2, "memory": 0, "link": 0, "firmware": 0, "lost": 1, "other": 2,
    }  # fmt: skip
    by_number = {labels[1]: value for labels, value in known[table.GPU_XID_NUMBERS].items()}
    assert by_number == {"13": 2, "79": 1, "other": 2}
    assert known[table.GPU_LAST_XID] == {(GPU.uuid,): 501}


def test_the_numbers_of_xid_errors_are_a_closed_set() -> None:
    counts = GpuCounts(hears_xids=True)
    for number in range(1000):
        counts.note_xid(number)

    shown = figures(GPU, GpuReading(), counts)[table.GPU_XID_NUMBERS]

    assert len(shown) == len(XID_CLASSES) + 1


def test_without_xid_errors_the_classes_are_0_and_no_last_one_is_shown() -> None:
    known = figures(GPU, GpuReading(), GpuCounts(hears_xids=True))

    assert set(known[table.GPU_XID_ERRORS].values()) == {0}
    assert table.GPU_LAST_XID not in known
    assert table.GPU_XID_NUMBERS not in known


def test_where_the_driver_tells_of_no_xid_errors_none_are_counted() -> None:
    assert table.GPU_XID_ERRORS not in figures(GPU, READING, GpuCounts())


def test_energy_counts_from_the_first_reading_and_never_down() -> None:
    counts = GpuCounts()
    shown = []
    for joules in (5000.0, 5100.0, 20.0, 50.0):  # the third: the driver was loaded anew
        counts.note_energy(joules)
        known = figures(GPU, GpuReading(energy_joules=joules), counts)
        shown.append(known[table.GPU_ENERGY][(GPU.uuid,)])

    assert shown == [0.0, 100.0, 100.0, 130.0]


def test_the_series_of_several_gpus_stand_side_by_side() -> None:
    both = merged(figures(gpu, GpuReading(utilization=0.5), GpuCounts()) for gpu in (GPU, SLICE))

    assert both[table.GPU_UTILIZATION] == {(GPU.uuid,): 0.5, (SLICE.uuid,): 0.5}
