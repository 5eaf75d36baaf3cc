"""What lives beside a script: the front actor, fronts of its own event loops, and map."""
