"""Picture files: one at a time, read by Pillow under fixed rules.

- PNG, JPEG, GIF, BMP, PBM/PGM/PPM and WebP are read, told by their content; no other format of Pillow is tried.
- The rotation that a camera noted (EXIF) is applied.  Colour profiles are not.
- Palettes become colours, black and white the levels 0 and 255.  Transparent pixels are laid on white.
- Colours of 16 bits keep their upper 8, as Pillow reads them.
- Grey of 16 or 32 bits, CMYK and other spaces, and animations are refused: each could be read in several ways.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from bfn_files.reading import reading
from bfn_toolkit import DataError

Array: TypeAlias = "np.ndarray[Any, Any]"
Size: TypeAlias = tuple[int, int]  # height and width
Colour: TypeAlias = Literal["auto", "grey", "rgb"]

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "PPM", "WEBP")
USUAL = 64  # pixels of a side that a small network learns in minutes
LARGEST = 2**16  # pixels of an image up to which it is left as it is
ENDINGS = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".pbm", ".pgm", ".ppm", ".webp")


def read_picture(path: Path, mode: Literal["auto", "L", "RGB"] = "auto", size: Size | None = None) -> Array:
    """Levels of a picture as uint8: (H, W) if it is grey, else (H, W, 3).

    Arguments:
        path: The file.
        mode: "L" makes it grey, "RGB" coloured, "auto" says what it is.
        size: Height and width to which it is cut, around its centre, and scaled; None to leave it as it is.
    Raises:
        DataError: If it is damaged, or of a form that the rules refuse.
    """
    with reading(path) as file:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(file, formats=FORMATS) as picture:
                    return _levels(path, picture, mode, size)
        except DataError:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise DataError(f"{path}: too many pixels to be a picture of a data set: {_line(error)}") from error
        except UnidentifiedImageError as error:
            raise DataError(f"{path}: is none of {', '.join(FORMATS)}, or damaged; replace it or remove it") from error
        except MemoryError:
            raise
        except Exception as error:  # Pillow's readers raise many kinds
            raise DataError(f"{path}: truncated or damaged: {_line(error)}; replace it or remove it") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _levels(path: Path, picture: Any, mode: Literal["auto", "L", "RGB"], size: Size | None) -> Array:
    frames = getattr(picture, "n_frames", 1)
    if frames > 1:
        raise DataError(f"{path}: has {frames} frames; save one of them as a picture, or remove it")
    if size is not None and picture.format == "JPEG":
        picture.draft(None, (2 * max(size), 2 * max(size)))  # decodes no more than is needed
    if picture.mode not in ("1", "L", "P", "RGB", "LA", "PA", "RGBA"):
        advice = "save it with 8 bits" if picture.mode[0] in "IF" else "save it in RGB"
        raise DataError(f"{path}: has the mode {picture.mode}; expected grey or colours of 8 bits: {advice}")
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    picture = picture.convert({"1": "L", "P": "RGB"}.get(picture.mode, picture.mode) if mode == "auto" else mode)
    levels = np.asarray(scaled(picture, size))
    grey = mode == "auto" and levels.ndim == 3 and is_grey(levels)
    return levels[..., 0] if grey else levels


def scaled(picture: Any, size: Size | None) -> Any:
    """A picture, cut around its centre and scaled to a size."""
    if size is None or picture.size == size[::-1]:
        return picture
    return ImageOps.fit(picture, size[::-1], Image.Resampling.LANCZOS)


def is_grey(levels: Array) -> bool:
    """Whether red, green and blue (..., 3) are equal everywhere."""
    return bool((levels[..., 0] == levels[..., 1]).all() and (levels[..., 1] == levels[..., 2]).all())


def check_pixels(path: Path, shape: Sequence[int], size: Size | None) -> None:
    """Refuses images that are too large for the networks, unless their size was asked for.

    Raises:
        DataError: If they have more than :data:`LARGEST` pixels, and ``size`` is None.
    """
    if size is None and shape[0] * shape[1] > LARGEST:
        raise DataError(
            f"{path} has {shape[1]} x {shape[0]} pixels, which take hours to learn and gigabytes of memory; write "
            f"--dataset.size {USUAL} to cut and scale all pictures to one size, or --dataset.size "
            f"'[{shape[0]}, {shape[1]}]' to keep them"
        )


def sizes_differ(first: Path, one: Sequence[int], second: Path, other: Sequence[int]) -> DataError:
    """The error for two pictures of different sizes."""
    sizes = [f"{shape[1]} x {shape[0]}" for shape in (one, other)]
    least = min(*one[:2], *other[:2], USUAL)
    return DataError(
        f"{first} has {sizes[0]} pixels, and {second} {sizes[1]}; write --dataset.size {least} to cut and scale all "
        "pictures to one size"
    )
