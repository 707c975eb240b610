"""What the dataset doctor reports: findings, the table of their kinds, and their views as text and JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from mrcnn.text import printable

ERROR, WARNING, ADVICE = SEVERITIES = ("error", "warning", "advice")
ENDS_SHOWN = 12  # characters at both ends of a long name
EXAMPLES = 3  # findings of a kind that the table shows


class Kind(NamedTuple):
    """A kind of finding: how serious it is, and what to do about it."""

    severity: str
    solution: str


# `fix` removes every error and warning. An advice needs a decision that only you can make.
KINDS = {
    # ---- Files
    "missing-image": Kind(ERROR, "Copy the photo to where the annotation says, or remove the entry."),
    "unreadable-image": Kind(ERROR, "Copy the photo again from its source, or remove the entry."),
    "wrong-size": Kind(ERROR, "Use the photo that was annotated, or scale the annotations to the size of the file."),
    "broken-annotation": Kind(ERROR, "Correct the entry in the annotation tool, or remove it."),
    "blank-image": Kind(WARNING, "Replace the photo, or remove it: all its pixels have the same value."),
    "turned-image": Kind(ADVICE, "It is turned upright when it is read. Save it upright to be independent of EXIF."),
    "gray-as-rgb": Kind(ADVICE, "Save it as gray, a third of the values; or set IMAGE_CHANNEL_COUNT = 1."),
    # ---- Copies
    "leaking-image": Kind(ERROR, "Keep it in one split only; otherwise validation measures memorization."),
    "duplicate-image": Kind(WARNING, "Remove one of the two; otherwise it counts twice."),
    # ---- Objects
    "empty-object": Kind(ERROR, "Draw the object again, or remove it: its mask has no pixel."),
    "outside-image": Kind(ERROR, "Remove the object, or check that the annotation belongs to this photo."),
    "partly-outside": Kind(WARNING, "Check that the annotation belongs to this photo; what is outside is cut off."),
    "one-pixel-object": Kind(WARNING, "Draw the object again, or remove it."),
    "whole-image-mask": Kind(WARNING, "Draw the object's outline; a mask of the whole image teaches nothing."),
    "box-mismatch": Kind(WARNING, "Compute the box from the mask, or draw the mask again."),
    "duplicate-object": Kind(WARNING, "Remove one of the two."),
    "conflicting-objects": Kind(WARNING, "Decide on one class and remove the other object."),
    "crowds": Kind(WARNING, "If each is one object, open the dataset with crowds_as_objects=True."),
    # ---- Classes
    "near-equal-names": Kind(WARNING, "Give the class one name, or the network has to tell the two apart."),
    "class-without-objects": Kind(WARNING, "Annotate objects of the class, or remove it from the list."),
    "class-missing-in-train": Kind(WARNING, "Move photos with this class to the training split, or remove the class."),
    "class-missing-in-val": Kind(ADVICE, "Move photos with the class to the validation split; its AP is unknown."),
    "class-imbalance": Kind(ADVICE, "Add photos of the rare classes, or repeat the existing ones."),
    "images-without-objects": Kind(ADVICE, "Check that these photos really show no object; if so, they are useful."),
    # ---- As the network gets them
    "lost-in-resizing": Kind(ADVICE, "Use larger images (IMAGE_MIN_DIM, IMAGE_MAX_DIM), or cut the photos into tiles."),
    "tiny-objects": Kind(ADVICE, "Use larger images (IMAGE_MIN_DIM, IMAGE_MAX_DIM), or cut the photos into tiles."),
    "too-many-objects": Kind(ADVICE, "Raise MAX_GT_INSTANCES; of an image with more, a random part is used."),
    "anchor-recall": Kind(ADVICE, "Change RPN_ANCHOR_SCALES or the size of the images."),
    "narrow-range": Kind(ADVICE, "Set IMAGE_RANGE, the values that become 0 and 255."),
    "mean-pixel": Kind(ADVICE, "Set MEAN_PIXEL if you train from scratch; pretrained weights need their own."),
    # ---- The reader
    "reader-warning": Kind(WARNING, "See docs/data.md."),
    "box-as-mask": Kind(ADVICE, "Draw masks; a network that learns boxes as masks predicts boxes."),
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One thing that the doctor found.

    Attributes:
        code: one of `KINDS`.
        what: a sentence with the numbers.
        severity: "error", "warning" or "advice".
        solution: how to fix it.
        split: "train", "val", or "" for both.
        image: the image's id in its source, or "".
        file: the image file or the annotation file, or "".
        entry: the object or entry in the file, or "".

    Example:
        >>> finding = Finding("blank-image", "all pixels are 0", split="train", image="a.png")
        >>> finding.severity, str(finding)
        ('warning', 'train, a.png: all pixels are 0')
    """

    code: str
    what: str
    severity: str = ""
    solution: str = ""
    split: str = ""
    image: str = ""
    file: str = ""
    entry: str = ""

    def __post_init__(self) -> None:
        kind = KINDS[self.code]
        object.__setattr__(self, "severity", self.severity or kind.severity)
        object.__setattr__(self, "solution", self.solution or kind.solution)

    def __str__(self) -> str:
        image = (
            self.image if len(self.image) <= 2 * ENDS_SHOWN else f"{self.image[:ENDS_SHOWN]}…{self.image[-ENDS_SHOWN:]}"
        )
        place = ", ".join(part for part in (self.split, image, self.entry) if part)
        return f"{place}: {self.what}" if place else self.what


@dataclass
class Findings:
    """All findings of `check`, most serious first. Iterable; `str()` gives a table, `to_dict()` is for JSON.

    Attributes:
        findings: list of Finding.
        images, objects: {split: number} that were checked.
        seconds: how long it took.
        fixed: what the clean copy holds and what was left out; None if none was written.

    Example:
        >>> findings = Findings([Finding("blank-image", "all pixels are 0", split="train", image="a.png")])
        >>> findings.has_errors, [finding.code for finding in findings.warnings]
        (False, ['blank-image'])
    """

    findings: list[Finding]
    images: dict[str, int] = field(default_factory=dict)
    objects: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    fixed: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        codes = list(KINDS)
        self.findings.sort(key=lambda one: (SEVERITIES.index(one.severity), codes.index(one.code), one.split))

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    @property
    def errors(self) -> list[Finding]:
        """Findings that make training or evaluation fail or give wrong results."""
        return self._select(ERROR)

    @property
    def warnings(self) -> list[Finding]:
        """Findings that are probably mistakes."""
        return self._select(WARNING)

    @property
    def advice(self) -> list[Finding]:
        """Findings that aren't mistakes, but could be improved."""
        return self._select(ADVICE)

    @property
    def has_errors(self) -> bool:
        """Whether there is an error."""
        return bool(self.errors)

    def _select(self, severity: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == severity]

    def by_code(self) -> dict[str, list[Finding]]:
        """{code: findings}, most serious first."""
        groups: dict[str, list[Finding]] = {}
        for finding in self.findings:
            groups.setdefault(finding.code, []).append(finding)
        return groups

    def to_dict(self) -> dict[str, Any]:
        """Everything, of types that `json` writes."""
        return {
            "images": self.images,
            "objects": self.objects,
            "counts": {severity: len(self._select(severity)) for severity in SEVERITIES},
            "seconds": round(self.seconds, 3),
            "findings": [asdict(finding) for finding in self.findings],
            "fixed": self.fixed,
        }

    # ---- Text --------------------------------------------------------------------------------------------------------
    def summary(self) -> str:
        """One line with the counts."""
        checked = [
            f"{split}: {self.images[split]:,} images, {self.objects.get(split, 0):,} objects" for split in self.images
        ]
        names = ("errors", "warnings", "pieces of advice")
        counts = ", ".join(f"{len(self._select(severity)):,} {name}" for severity, name in zip(SEVERITIES, names))
        return f"{'; '.join(checked)}. {counts} ({self.seconds:.1f} s)."

    def fixed_rows(self) -> dict[str, str]:
        """What the clean copy holds and what was left out, {heading: text}."""
        fixed, rows = self.fixed or {}, {}
        for split, images in fixed.get("images", {}).items():
            rows[split] = (
                f"{images:,} images, {fixed['objects'][split]:,} objects; left out: {fixed['images_left_out'][split]:,}"
                f" images, {fixed['objects_left_out'][split]:,} objects"
            )
        if fixed.get("renamed"):
            rows["renamed"] = ", ".join(f"{old} to {new}" for old, new in fixed["renamed"].items())
        if fixed.get("classes_left_out"):
            rows["classes left out"] = ", ".join(fixed["classes_left_out"])
        return rows

    def table(self) -> Table:
        """A rich table with a row for each kind, its first findings, and how to fix them."""
        table = Table(show_lines=True, header_style="bold")
        for heading, options in (("", {"no_wrap": True}), ("found", {"ratio": 3}), ("how to fix", {"ratio": 2})):
            table.add_column(heading, **options)
        colors = {ERROR: "red", WARNING: "yellow", ADVICE: "cyan"}
        for code, found in self.by_code().items():
            shown = [printable(str(finding)) for finding in found[:EXAMPLES]]
            if len(found) > EXAMPLES:
                shown.append(f"... {len(found):,} in all")
            severity = found[0].severity
            heading = f"[{colors[severity]}]{severity}[/]\n{code}"
            solutions = "\n".join(dict.fromkeys(finding.solution for finding in found[:EXAMPLES]))
            table.add_row(heading, _escape_markup("\n".join(shown)), _escape_markup(printable(solutions)))
        return table

    def __str__(self) -> str:
        if not self.findings:
            return self.summary()
        console = Console(width=110, color_system=None, force_terminal=False)
        with console.capture() as capture:
            console.print(self.table())
        return capture.get() + self.summary()


def _escape_markup(text: str) -> Any:
    """Text in which brackets are no markup of rich."""
    from rich.text import Text

    return Text(text)
