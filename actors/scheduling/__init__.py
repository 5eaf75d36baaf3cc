"""The dispatcher's mind: admission, queueing and placement as a pure library without I/O, threads or a clock."""
