"""``python -m datasets.report SHARDS``: write the quality report of a preparation, one HTML page.

Everything that it shows is read from the prepared shards' folder; the raw recordings need not be there.
"""

from collections.abc import Iterator
from pathlib import Path

from datasets.command_line import CommandParser, natural_number, run_command
from datasets.quality.images import outlines, template_outlines
from datasets.quality.markup import Markup
from datasets.quality.page import SubjectPart, page, subject_part
from datasets.quality.records import SubjectQuality, Template, read_anatomy, read_subject, read_template, subjects_of
from datasets.shards import REPORT, Manifest, read_manifest
from datasets.storage import Storage, open_storage, write_whole

MAX_FIGURES = 60


def main() -> None:
    """Write the report beside the shards, or where the user wants it, and say where it lies."""
    parser = CommandParser(
        prog="python -m datasets.report", description="Write the quality report of prepared shards: one HTML page."
    )
    parser.add_argument("shards", metavar="SHARDS", help="a local folder or s3:// URI with prepared shards")
    parser.add_option("--output", type=Path, metavar="FILE.html", help=f"where to write it, not {REPORT} in SHARDS")
    parser.add_option(
        "--figures",
        type=natural_number,
        default=MAX_FIGURES,
        metavar="N",
        help="subjects with figures; of more than N subjects only flagged ones have any",
    )
    arguments = parser.parse_args()
    storage = open_storage(arguments.shards)
    manifest = read_manifest(storage)
    if arguments.output is None:
        print(write_report(storage, manifest, max_figures=arguments.figures))
        return
    content = report_page(storage, manifest, max_figures=arguments.figures).encode()
    write_whole(arguments.output.absolute(), content)
    print(arguments.output.absolute())


def write_report(storage: Storage, manifest: Manifest, *, max_figures: int = MAX_FIGURES) -> str:
    """Write the report of prepared shards beside them and return where it lies."""
    storage.write(REPORT, report_page(storage, manifest, max_figures=max_figures).encode())
    folder, question_mark, options = storage.uri.partition("?")
    return f"{folder.rstrip('/')}/{REPORT}{question_mark}{options}"


def report_page(storage: Storage, manifest: Manifest, *, max_figures: int = MAX_FIGURES) -> str:
    """Return the report as HTML: the same bytes for the same shards and versions."""
    template = read_template(storage, manifest)
    parts = list(_parts(storage, manifest, template, max_figures))
    shared = template_outlines(template) if template.mask.any() else Markup("")
    return page(manifest, parts, shared, _note(len(parts), max_figures))


def _parts(storage: Storage, manifest: Manifest, template: Template, max_figures: int) -> Iterator[SubjectPart]:
    subjects = subjects_of(manifest)
    num_drawn = 0
    for subject in subjects:
        quality = read_subject(storage, manifest, subject)
        is_wanted = bool(quality.runs) and (len(subjects) <= max_figures or quality.is_flagged)
        is_drawn = is_wanted and num_drawn < max_figures
        num_drawn += is_drawn
        figures = _images(storage, manifest, quality, template) if is_drawn else []
        yield subject_part(quality, figures, manifest, is_drawn=is_drawn)


def _images(storage: Storage, manifest: Manifest, quality: SubjectQuality, template: Template) -> list[Markup]:
    if not template.mask.any():
        return []
    return outlines(quality.subject, read_anatomy(storage, manifest, quality.subject, template), template)


def _note(num_subjects: int, max_figures: int) -> str:
    if num_subjects <= max_figures:
        return "Figures are drawn for every subject."
    return (
        f"Of {num_subjects} subjects, figures are drawn for flagged ones only, for {max_figures} of them at most; "
        "draw more with: python -m datasets.report SHARDS --figures N"
    )


if __name__ == "__main__":
    raise SystemExit(run_command(main))
