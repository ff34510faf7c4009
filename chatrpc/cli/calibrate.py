"""`chatrpc calibrate`: the floor of the embedding model, measured on the operator's own text."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from chatrpc.cli.transcripts import read_transcripts
from chatrpc.context.calibration import SHARE, Calibration, Said
from chatrpc.context.calibration import calibrate as measure
from chatrpc.db.engine import open_database
from chatrpc.db.vectors import VectorStore
from chatrpc.domain import counted
from chatrpc.errors import Unavailable
from chatrpc.models.embedding import build_embedder
from chatrpc.settings import DatabaseSettings, EmbedderSettings, load

_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@click.command()
@click.option("--dry-run", is_flag=True, help="Print the floor and record nothing; no database is needed.")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
def calibrate(files: Sequence[Path], dry_run: bool) -> None:
    """Measure the embedding model's floor on FILES and record it: passages below it enter no context.

    Each file is one conversation with a message a line, or, where its name ends in .jsonl, one JSON object a line:
    {"text": ..., "role": "user" or "assistant", "conversation": ...}, the latter two optional, or a whole conversation
    {"messages": [{"role": ..., "content": ...}, ...]}.
    """
    database = None if dry_run else load(DatabaseSettings)
    asyncio.run(_calibrate(read_transcripts(files), len(files), load(EmbedderSettings), database))


async def _calibrate(
    said: Sequence[Said], files: int, embedding: EmbedderSettings, database: DatabaseSettings | None
) -> None:
    async with build_embedder(embedding) as embedder:
        try:
            measured = await measure(embedder, said)
            click.echo(_report(embedder.space.name, files, measured))
            if database is None:
                return
            async with open_database(database) as opened:
                vectors = VectorStore(opened)
                await vectors.record_floor(await vectors.register_space(embedder.space), measured.floor)
        except ValueError as error:
            raise click.ClickException(f"This text does not do: {error}.") from None
        except Unavailable as error:
            raise click.ClickException(error.message) from None
    click.echo(f"Recorded for {embedder.space.name}; servers and workers take it at their next start.")
    if embedding.floor is not None:
        click.echo(f"CHATRPC_EMBEDDER_FLOOR={embedding.floor} goes before it for as long as it is set.")


def _report(model: str, files: int, measured: Calibration) -> str:
    pairs = f"{len(measured.unrelated):,} unrelated", counted(len(measured.related), "related pair")
    lines = [
        f"{model}: {counted(measured.messages, 'different message')} of {counted(files, 'file')}",
        f"{'cosine of':>12}{pairs[0]:>20}{pairs[1]:>22}",
    ]
    for share in _SHARES:
        unrelated, related = (float(np.quantile(each, share)) for each in (measured.unrelated, measured.related))
        lines.append(f"{f'{share:.0%} below':>12}{unrelated:>20.2f}{related:>22.2f}")
    lines.append(
        f"Floor: {measured.floor:.2f}. {SHARE:.0%} of the unrelated pairs lie below it, and {measured.admitted:.0%} of "
        "the related ones do not."
    )
    return "\n".join(lines)
