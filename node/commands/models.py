"""`carpool models`: what is in the model cache, and putting more into it."""

import contextlib
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from node import conversion
from node.models import CachedModel, ModelCache, ModelError, tensors_of

models = typer.Typer(no_args_is_help=True, help="The models that this machine's cars offer.")


@models.command()
def add(
    model: Annotated[str, typer.Argument(metavar="NAME|DIRECTORY", help="A known name, or a directory.")],
    name: Annotated[str | None, typer.Option(help="Call a directory's model so.")] = None,
) -> None:
    """Put a model into the cache: minilm, smollm2, efficientnet-lite0, or a directory."""
    console = Console(stderr=True)
    with _one_line_errors():
        with console.status(f"adding {model}"):
            cached, added = conversion.add(ModelCache.of_user(), model, name)
        if added:
            typer.echo(f"added {cached.name}: {cached.kind}, {_megabytes(cached)}, in {cached.directory}")
        else:
            typer.echo(f"{cached.name} is in the cache already, intact: {cached.directory}")


@models.command("list")
def list_models() -> None:
    """List the models in the cache."""
    with _one_line_errors():
        cache = ModelCache.of_user()
        cached = cache.models()
        if not cached:
            known = ", ".join(conversion.NAMED)
            typer.echo(f"no models in {cache.root}; add one with `carpool models add NAME` ({known})")
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("model", "kind", "parameters", "type", "size", "digest"):
            table.add_column(
                heading, no_wrap=True, justify="right" if heading in ("parameters", "size") else "left"
            )
        table.add_column("source", overflow="fold")
        for model in cached:
            count, dtype = tensors_of(model)
            parameters = f"{count / 1e6:.1f} M"
            table.add_row(
                model.name, model.kind, parameters, dtype, _megabytes(model), model.digest[:12], model.source
            )
        Console().print(table)


def _megabytes(model: CachedModel) -> str:
    return f"{model.bytes / 1e6:,.0f} MB"


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except ModelError as error:
        typer.echo(f"carpool: {error}", err=True)
        raise typer.Exit(2) from None
