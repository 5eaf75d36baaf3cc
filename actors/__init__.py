"""exlpool: one pool of text generators out of many ExLlamaV2 models, on Ray."""
