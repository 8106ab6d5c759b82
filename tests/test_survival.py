"""A run that is killed goes on and ends with the same bits (support/lives.py does the killing)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def lives(folder: Path, kills: int) -> str:
    program = Path(__file__).with_name("support") / "lives.py"
    command = [sys.executable, str(program), str(folder), str(kills), "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=3000)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_killed_run_goes_on_and_ends_with_the_same_bits(tmp_path):
    told = lives(tmp_path, 3)
    assert "killed 3 times" in told and "the same bits" in told


@pytest.mark.long
def test_a_run_may_be_killed_a_hundred_times(tmp_path):
    told = lives(tmp_path, 100)
    assert "killed 100 times" in told and "the same bits" in told
