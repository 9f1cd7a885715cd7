"""Answers to a request: class fractions and polygons as JSON, a mask, or an overlay."""

import io
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..inference.prediction import Prediction
from ..meta import Labels
from .limits import refusal

MediaType = Literal["application/json", "image/png", "image/jpeg"]
MEDIA_TYPES: tuple[MediaType, ...] = ("application/json", "image/png", "image/jpeg")
"""The media types of answers; the first is the one for clients that take any."""


class ClassAnswer(BaseModel):
    """A class."""

    id: int = Field(description="Value of the class in masks.")
    name: str
    color: tuple[int, int, int] = Field(description="RGB, 0 to 255.")


class FractionAnswer(ClassAnswer):
    """A class, and how much of an image it is."""

    fraction: float = Field(description="Fraction of the pixels, 0 to 1.")


class PolygonAnswer(BaseModel):
    """The outline of an object: pixels of one class that are connected by their sides."""

    class_id: int
    exterior: list[tuple[float, float]] = Field(description="x, y of the corners in pixels from the upper left corner.")
    holes: list[list[tuple[float, float]]]
    area: int = Field(description="Pixels of the object, before it was simplified.")


class SegmentAnswer(BaseModel):
    """A segmented image."""

    model: str
    width: int = Field(description="Pixels, of the image turned as its EXIF states.")
    height: int
    classes: list[FractionAnswer] = Field(description="All classes of the model, in the order of their ids.")
    polygons: list[PolygonAnswer] | None = Field(description="null if `polygons=false`.")


class SegmentOptions(BaseModel):
    """Options of the JSON answer."""

    model_config = ConfigDict(extra="forbid")

    polygons: Annotated[bool, Field(description="Whether the answer has polygons.")] = True
    simplify: Annotated[float, Field(ge=0, le=1000, description="Pixels by which an outline may move to spare corners.")] = 0
    min_area: Annotated[int, Field(ge=0, description="Pixels of the smallest object.")] = 0

    def check_for(self, kind: MediaType) -> None:
        """Refuse options that would change nothing."""
        if kind != "application/json" and self.model_fields_set:
            raise refusal(400, f"{', '.join(sorted(self.model_fields_set))} is for Accept: application/json; leave it out.")
        if not self.polygons and (unused := self.model_fields_set - {"polygons"}):
            raise refusal(400, f"{', '.join(sorted(unused))} is for polygons, and polygons is false; leave one of them out.")


def accepted(header: str | None) -> MediaType:
    """The media type to answer with, by the request's Accept header (RFC 9110, section 12.5.1).

    Raises:
        HTTPException: If there is none, 406.
    """
    wanted: dict[str, float] = {}
    for item in (header or "*/*").lower().split(","):
        kind, *parameters = (part.strip() for part in item.split(";"))
        quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        try:
            wanted[kind] = min(max(float(quality), 0.0), 1.0)
        except ValueError:
            raise refusal(400, "The header Accept has a quality that is no number.") from None

    def quality_of(kind: MediaType) -> float:
        ranges = (kind, kind.partition("/")[0] + "/*", "*/*")
        return next((wanted[r] for r in ranges if r in wanted), 0.0)

    best = max(MEDIA_TYPES, key=quality_of)
    if not quality_of(best) > 0:
        raise refusal(
            406, f"Accept asks for none of {', '.join(MEDIA_TYPES)}: class fractions and polygons, the mask, the overlay."
        )
    return best


def classes_of(labels: Labels) -> list[ClassAnswer]:
    """The classes in the order of their ids."""
    return [ClassAnswer(id=i, name=n, color=c) for i, (n, c) in enumerate(zip(labels.names, labels.colors, strict=True))]


def encode(prediction: Prediction, kind: MediaType, model: str, options: SegmentOptions) -> bytes:
    """The body of an answer. Nothing of the image's metadata is in it."""
    if kind == "image/png":
        return prediction.png()
    if kind == "image/jpeg":
        buffer = io.BytesIO()
        prediction.overlay().save(buffer, "JPEG", quality=90)
        return buffer.getvalue()
    height, width = prediction.mask.shape
    polygons = None
    if options.polygons:
        polygons = [
            PolygonAnswer(
                class_id=p.class_id,
                exterior=p.exterior.tolist(),
                holes=[hole.tolist() for hole in p.holes],
                area=p.area,
            )
            for p in prediction.polygons(simplify=options.simplify, min_area=options.min_area)
        ]
    fractions = prediction.class_fractions.values()
    classes = [FractionAnswer(**c.model_dump(), fraction=f) for c, f in zip(classes_of(prediction.labels), fractions, strict=True)]
    answer = SegmentAnswer(model=model, width=width, height=height, classes=classes, polygons=polygons)
    return answer.model_dump_json().encode()
