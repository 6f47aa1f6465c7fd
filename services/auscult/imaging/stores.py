"""The image store that the settings name: a folder, or a bucket."""

from __future__ import annotations

from auscult.imaging.s3_store import S3ImageStore, open_bucket
from auscult.imaging.store import ImageStore
from auscult.platform.settings import Settings


def open_images(settings: Settings) -> ImageStore:
    """Return it. RefuseToStart: `image-store-url`."""
    if not isinstance(settings.image_store, str):
        return ImageStore(settings.images, min_free_bytes=settings.min_free_bytes)
    bucket = open_bucket(settings.image_store, endpoint=settings.s3_endpoint, region=settings.s3_region)
    return S3ImageStore(
        bucket,
        settings.images,
        min_free_bytes=settings.min_free_bytes,
        largest_working=settings.image_cache_bytes,
    )
