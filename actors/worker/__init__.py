"""The worker: a Ray actor round one engine, on a thread or in a process of its own."""
