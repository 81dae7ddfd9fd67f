"""Settings of the synthetic dataset of drawn shapes, and the shares of it that are spoilt on purpose."""

from dataclasses import dataclass, field

SHAPES = ("circle", "square", "triangle", "star", "cross")
COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "cyan", "black")
SIZES = ("small", "large")
BACKGROUNDS = ("white", "grey", "cream", "mint")
PLACEMENTS = ("grid", "row")


@dataclass(frozen=True, kw_only=True)
class SpoiltShares:
    """Shares of all lines that are spoilt on purpose; each line is spoilt in at most one way."""

    exact_duplicates: float = 0.02  # repeats an earlier line of the same file, image bytes included
    near_duplicates: float = 0.02  # an earlier line, its image re-encoded, resized or brightened
    broken_files: float = 0.02  # truncated, empty, or HTML under an image's name
    bad_captions: float = 0.02  # empty, HTML, URL, file name, control characters

    def __post_init__(self) -> None:
        shares = (self.exact_duplicates, self.near_duplicates, self.broken_files, self.bad_captions)
        if min(shares) < 0 or sum(shares) > 0.9:
            raise ValueError(f"the shares of spoilt lines must be at least 0 and together at most 0.9, found {shares}")


@dataclass(frozen=True, kw_only=True)
class ShapesConfig:
    """The number of lines of each task, the difficulty of the scenes, and the seed."""

    seed: int
    understanding: int = 2000  # lines of the train split
    generation: int = 2000
    editing: int = 1000
    text: int = 500
    val_share: float = 0.05  # extra lines of each task for the val split, as a share of its train lines; at least one
    lines_per_file: int = 500
    image_sizes: tuple[tuple[int, int], ...] = ((64, 64), (48, 96), (96, 48), (56, 72))  # (height, width) in pixels
    shapes: tuple[str, ...] = ("circle", "square", "triangle")
    colours: tuple[str, ...] = COLOURS
    sizes: tuple[str, ...] = SIZES  # with a single entry the texts never mention a size
    backgrounds: tuple[str, ...] = BACKGROUNDS  # with a single entry the texts never mention the background
    min_shapes: int = 1
    max_shapes: int = 3
    placement: str = "grid"  # "grid": nine named places; "row": evenly from left to right, places never mentioned
    varied_wording: bool = True  # False: always the same wording
    question_share: float = 0.5  # of understanding lines that begin with a question, not "Describe the image."
    exchanges: int = 1  # at most, of an understanding line; fewer if there is nothing new to ask
    existence_questions: int = (
        1  # at most, among what there is to ask of an understanding line, each about another object
    )
    spoilt: SpoiltShares = field(default_factory=SpoiltShares)
    license: str = "CC0-1.0"

    def __post_init__(self) -> None:
        for name, found, known in (
            ("shapes", self.shapes, SHAPES),
            ("colours", self.colours, COLOURS),
            ("sizes", self.sizes, SIZES),
            ("backgrounds", self.backgrounds, BACKGROUNDS),
            ("placement", (self.placement,), PLACEMENTS),
        ):
            unknown = sorted(set(found) - set(known))
            if unknown or not found:
                raise ValueError(f"{name}: found {unknown or 'nothing'}, expected some of {', '.join(known)}")
        if not 1 <= self.min_shapes <= self.max_shapes <= 4:
            raise ValueError(f"need 1 <= min_shapes <= max_shapes <= 4, found {self.min_shapes} and {self.max_shapes}")
        if not self.image_sizes or min(min(size) for size in self.image_sizes) < 24:
            raise ValueError(f"image_sizes: every side must be at least 24 pixels, found {self.image_sizes}")
        if self.lines_per_file < 1:
            raise ValueError(f"lines_per_file must be at least 1, found {self.lines_per_file}")
        if min(self.exchanges, self.existence_questions) < 1:
            given = f"{self.exchanges} and {self.existence_questions}"
            raise ValueError(f"exchanges and existence_questions must be at least 1, found {given}")
        if min(self.understanding, self.generation, self.editing, self.text) < 0:
            raise ValueError("the numbers of lines must not be negative")
        if not (0 <= self.val_share <= 1 and 0 <= self.question_share <= 1):
            raise ValueError("val_share and question_share must lie between 0 and 1")

    @property
    def mentions(self) -> frozenset[str]:
        """Which of "size", "place" and "background" the texts mention."""
        mentioned = {
            "size": len(self.sizes) > 1,
            "place": self.placement == "grid",
            "background": len(self.backgrounds) > 1,
        }
        return frozenset(name for name, is_mentioned in mentioned.items() if is_mentioned)
