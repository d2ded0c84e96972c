"""What the view is told by its environment beyond what every service is."""

from pydantic import Field

from shared.settings import Settings


class SupportViewSettings(Settings):
    frame_ancestors: str = Field(
        default="",
        pattern=r"^(https?://[A-Za-z0-9.*:\[\]-]+( |$))*$",
        description="origins of the help desk that may show `/embed` in a frame, with blanks between; none: nobody",
    )
