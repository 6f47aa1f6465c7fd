"""DICOM series to and from volumes in patient space, and the image store."""
