"""Grammars that a completion may be held to: their kinds and bounds, and the processes in which they are compiled.

Compiling one, and saying which token may come next under it, can take for ever and all memory, whatever llguidance's
own limits are: an intersection of 30 patterns does it in 1 kB, and it may hide behind a few tokens so that it shows at
no time but a step's. So llguidance runs nowhere but in processes that may be killed: one for every grammar
(`process.py`), with a bound on its processor time and its memory. An API asks them whether a grammar can be used at
all (`checker.py`), an engine which tokens it allows (`actors.engines.grammar`).
"""
