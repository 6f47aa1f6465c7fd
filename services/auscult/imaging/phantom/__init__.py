"""An anthropomorphic chest CT by seed, with one nodule whose size, type and place are known exactly.

`anatomy.chest` draws the anatomy, `anatomy.grown` the same one later, `scanner.scan` images it, `series.write_series`
makes DICOM of it.
"""

from auscult.imaging.phantom.anatomy import Phantom, chest, grown
from auscult.imaging.phantom.nodule import NoduleTruth
from auscult.imaging.phantom.scanner import Protocol, scan
from auscult.imaging.phantom.series import SyntheticPatient, write_series

__all__ = ["NoduleTruth", "Phantom", "Protocol", "SyntheticPatient", "chest", "grown", "scan", "write_series"]
