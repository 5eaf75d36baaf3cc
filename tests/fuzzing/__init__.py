"""Fuzzers: each tries one case after another, made at random from a seed, against a promise that must hold for all.

A module here is one fuzzer. It has `CLAIM`, the promise in one sentence, and `try_case(random)`, which makes one case,
tries it, and returns in a word or two what kind of case it was; an exception of any kind is a finding. `search.py`
runs them for as long as one likes (`make fuzz`), `test_fuzzers.py` a few fixed cases of each (`make test`). What a
fuzzer once found is kept as a plain test beside what it broke.
"""
