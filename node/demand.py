"""Which models the works on their way need, and what comes of that. Knows neither the thread nor torch.

Which is loaded and who leaves for it is decided in `resident`; `loading` does it.
"""

from node.books import Books
from node.loading import Models
from node.resident import Want
from node.running import Task
from node.stepping import Stepping
from node.telling import Telling
from node.turns import Turns
from node.work import Listener


class Demand:
    """Of one executor."""

    def __init__(
        self,
        listener: Listener,
        telling: Telling,
        books: Books,
        turns: Turns[Task],
        models: Models,
        stepping: Stepping,
    ) -> None:
        self._listener = listener
        self._telling = telling
        self._books = books
        self._turns = turns
        self._models = models
        self._stepping = stepping
        self.turn: Task | None = None
        """It has the thread's turn."""

    def tend(self) -> bool:
        """Have the models loaded that are waited for, and tell of it; those that cannot be fail their works.
        Whether other works may be ready than before."""
        models = self._models
        if models.whole:
            return False
        left, there = set(models.leaving), set(models.workloads)
        changed = models.settle(self._wants)
        for model in models.workloads.keys() - there:
            self._book_loading(model)
        if changed:
            self._listener.resident(models.load_s())
        for task in self._turns.waiting() if models.broken else ():
            if (failure := models.broken.get(task.work.model)) is not None:
                self._telling.fail(task, failure)
        return changed or models.leaving != left

    def _book_loading(self, model: str) -> None:
        """The work that comes first of those that waited for a model is what it was loaded for."""
        tasks = [task for task in self._turns.waiting() if task.work.model == model]
        if tasks:
            first = min(tasks, key=lambda task: (not task.work.interactive, task.number))
            first.unreported_loading_s += self._models.took_s(model)

    def _wants(self) -> list[Want]:
        """What all works on their way need of the models; one that was stopped, too, until its rows have left."""
        at_work = self._books.at_work
        works = at_work.union(self._turns.waiting(), self._stepping.seated)
        return [
            Want(
                task.work.model,
                task.work.interactive,
                task.number,
                task in at_work or task is self.turn or task.announced is not None or bool(task.rows),
            )
            for task in works
            if task.work.model not in self._models.broken
        ]
