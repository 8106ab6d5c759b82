"""tools/mutants.py: every fault can still be planted."""

from tools.mutants import FAULTS, misfit, read_faults


def test_every_fault_fits_the_code():
    faults = read_faults(FAULTS)
    assert len(faults) > 50
    assert [(fault.file, fault.old) for fault in faults if misfit(fault)] == []
