"""What crosses HTTP, as pydantic models: OpenAI's fields with its ranges, and the extensions of EXL2 servers.

Every optional field may be null, which means the same as leaving it out. Unknown fields are ignored.
"""
