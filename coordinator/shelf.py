"""The shelf: what fronts keep beside jobs. Knows neither jobs nor what the documents say."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from time import time

from coordinator.refusal import Refused
from coordinator.store.documents import Document, Documents
from coordinator.trouble import Trouble


class Shelf:
    """Documents that are recorded, held while somebody reads them, and forgotten when their time is over."""

    def __init__(self, documents: Documents, trouble: Trouble) -> None:
        self.documents = documents
        self.held: dict[str, set[str]] = {}
        """Names of documents that are not forgotten now, each with the names of who reads it."""
        self._trouble = trouble

    async def record(self, documents: Sequence[Document], dropped: Collection[str] = ()) -> None:
        """Record documents, and forget those that are named. When the store fails at that the coordinator stops."""
        try:
            await self.documents.put(documents, dropped=dropped)
        except Exception as error:
            self._trouble.stop(error)
            raise

    async def forget(self) -> int:
        """Forget some of those whose time is over, and say how many; 0: there are no more."""
        with suppress(Refused):  # the database is damaged, which was told
            over = await self._trouble.reading(self.documents.over(time(), self.held))
            if over:
                await self.documents.put([], dropped=[document.name for document in over])
            return len(over)
        return 0
