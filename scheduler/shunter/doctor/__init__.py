"""`shunter doctor`: reads facts of an installation, judges them, says how to mend what is wrong.

`read_*` modules ask; `check_*` modules judge what was read and are pure; `table` lists the checks.
"""
