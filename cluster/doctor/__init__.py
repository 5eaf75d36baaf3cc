"""What is missing on a machine, or on the nodes of a cluster, for a worker: facts, judgements, and how they are shown.

What runs on a node (`gather` and all that it calls) is sent there by value, so the node needs no exlpool: such a module
takes names out of others (`from a import b`), never a module of ours as a whole.
"""
