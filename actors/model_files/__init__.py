"""The files of a model on the nodes of a cluster: whether copies are the same, and those that fronts need elsewhere."""
