"""Which pages are resident, and how that has changed since it was last told."""

from __future__ import annotations

from collections.abc import Iterable


class ResidentPages:
    """Names of full pages whose keys and values are valid.

    The difference to what was last told is kept up with each change, so telling it costs nothing in the many steps in
    which nothing changes. Names keep their order: the same calls always tell the same changes.
    """

    def __init__(self) -> None:
        # Dictionaries without values are sets that keep their order.
        self._names: dict[bytes, None] = {}
        self._added: dict[bytes, None] = {}
        self._evicted: dict[bytes, None] = {}
        self._snapshot: frozenset[bytes] | None = None

    def __repr__(self) -> str:
        return f"<ResidentPages: {len(self._names)}, since told {len(self._added)} more, {len(self._evicted)} gone>"

    def __len__(self) -> int:
        return len(self._names)

    def add(self, name: bytes) -> None:
        """A page becomes resident. One that was lost since changes were last told has not changed at all."""
        self._names[name] = None
        self._snapshot = None
        if name in self._evicted:
            del self._evicted[name]
        else:
            self._added[name] = None

    def remove(self, name: bytes) -> None:
        """A resident page is lost. One that nobody was told of need not be told now."""
        del self._names[name]
        self._snapshot = None
        if name in self._added:
            del self._added[name]
        else:
            self._evicted[name] = None

    def clear(self) -> None:
        """All pages are lost."""
        self.replace(())

    def replace(self, names: Iterable[bytes]) -> None:
        """These pages are resident now, and no others."""
        now = dict.fromkeys(names)
        for name in [name for name in self._names if name not in now]:
            self.remove(name)
        for name in now:
            if name not in self._names:
                self.add(name)

    def names(self) -> frozenset[bytes]:
        """All of them."""
        if self._snapshot is None:
            self._snapshot = frozenset(self._names)
        return self._snapshot

    @property
    def changed(self) -> bool:
        """Whether `take_changes` has anything to tell."""
        return bool(self._added or self._evicted)

    def take_changes(self) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """Names added and names lost since the last call; a page that came and went in between is in neither."""
        if not self.changed:
            return (), ()
        changes = tuple(self._added), tuple(self._evicted)
        self._added, self._evicted = {}, {}
        return changes

    def validate(self, resident: set[bytes]) -> None:
        """:raises AssertionError: other pages than `resident` are held, or the difference is none."""
        assert self._names.keys() == self.names() == resident, "resident pages differ"
        assert self._added.keys() <= resident, "a page that was added is not resident"
        assert not self._evicted.keys() & resident, "a page that was evicted is resident"
