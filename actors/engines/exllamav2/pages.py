"""Pages of a job's sequence: naming those that are complete, and shortening the sequence again."""

from __future__ import annotations

from typing import Any

from exllamav2.generator.dynamic import _tensor_hash_checksum


def name_page(generator: Any, sequence: Any, index: int) -> None:
    """Name a full page, as the library's `receive_sample` does, so that later prompts find it."""
    page = sequence.allocated_pages[index]
    parent = sequence.allocated_pages[index - 1].phash if index else None
    ids = sequence.sequence_ids.torch_slice(index * generator.page_size, (index + 1) * generator.page_size)
    name = _tensor_hash_checksum(ids, parent)
    # Is the same text there already?
    # - On a page of a running job that is still computed: it has the name, but not yet what the name stands for; the
    #   library asserts that this cannot be. This page stays without a name.
    # - On a full page of a running job: both jobs use that one from now on, and this page is free.
    # - On a free page: that one is cleared, and this page has the name.
    # - Nowhere: this page has the name.
    twin = generator.referenced_pages.get(name)
    if twin is not None and twin.kv_position < generator.page_size:
        return
    if twin is not None:
        serial = page.access_serial
        page.sub_ref()
        sequence.allocated_pages[index] = twin
        sequence.block_index_tensor = None
        twin.add_ref(serial)
    else:
        if name in generator.unreferenced_pages:
            generator.unreferenced_pages[name].clear()
        page.update_hash(name)
    if index + 1 < len(sequence.allocated_pages):
        following = sequence.allocated_pages[index + 1]
        following.prev_hash = name
        following.can_revert = False


def shorten(sequence: Any, count: int, page_size: int) -> None:
    """Take back the last `count` tokens; what the pages hold behind the new end is no longer valid.

    The last token that is left is computed again, at the place where it lies: its page must not be named.
    """
    last = sequence.kv_position // page_size
    sequence.kv_position -= count
    sequence.sequence_ids.truncate(len(sequence.sequence_ids) - count)
    # The page that the new end lies in keeps its rows up to there; those behind it have none that are valid.
    for index in range(sequence.kv_position // page_size, min(last + 1, len(sequence.allocated_pages))):
        page = sequence.allocated_pages[index]
        page.can_revert = False
        page.kv_position = max(sequence.kv_position - index * page_size, 0)
