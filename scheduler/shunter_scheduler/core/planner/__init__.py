"""The move planner: at each period it looks for moves that gain more seconds than they cost.

`fleet` are a pool's instances as columns, `triggers` say where to look and why, `gain` weighs one
request's moves, `budgets` bound what is under way, `cycle` puts them together. `llumnix` is the
policy of the paper, to compare with.
"""
