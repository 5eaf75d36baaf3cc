"""The chaos: what the users of a served pool see while its processes are killed.

    make chaos                        # 5 minutes, and a node that dies
    CHAOS_MINUTES=1 make chaos
    python -m tests.chaos --minutes 1 --seed 7

The built-in model on four workers of the CPU engine, over HTTP and from scripts. A calm run of all requests says what
has to come; then the same is asked while workers, the dispatcher and replicas of the HTTP front are killed or stopped.
What must hold: no request is lost, no token is lost or doubled, no text is another one, and nothing is left over.
"""
