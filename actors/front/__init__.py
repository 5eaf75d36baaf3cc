"""The front: a request becomes a stream of deltas. Links to the dispatcher and to workers."""
