"""What the exercises call, `checks.check_…(answer)`: one check for each exercise.

Every file holds the checks of one lesson; its `__all__` is what notebooks can call. A wrong answer
is told what it did, as far as that can be recognised.
"""

# ruff: noqa: F403
from helpers.checks.deviations import *
from helpers.checks.lesson01 import *
from helpers.checks.lesson02 import *
from helpers.checks.lesson03 import *
from helpers.checks.lesson04 import *
from helpers.checks.lesson05 import *
from helpers.checks.lesson06 import *
from helpers.checks.lesson07 import *
from helpers.checks.lesson08 import *
from helpers.checks.lesson09 import *
