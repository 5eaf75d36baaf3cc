"""The soak: a pool under mixed load while its links are broken and its processes are killed, for minutes or hours.

    make soak                        # 30 minutes
    SOAK_MINUTES=5 make soak
    python -m tests.soak --minutes 5 --seed 7

What must hold: every request ends; each end is the right text or a typed error; memory stays flat; nothing is left.
The simulated engine's text follows from the prompt, so what is lost, doubled or mixed up on its way shows.
"""
