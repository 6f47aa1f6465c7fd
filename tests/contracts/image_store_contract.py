"""What every image store does. Each one's tests subclass `ImageStoreContract` and say how to open it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from pydicom.uid import ImplicitVRLittleEndian

from auscult.imaging.header import InstanceHeader
from auscult.imaging.notes import of_study
from auscult.imaging.store import ImageStore
from auscult.platform.errors import Refused
from dicom_factory import ct_series, encode

SLICES = ct_series((3, 8, 8))
FILES = [encode(dataset) for dataset in SLICES]
HEADERS = [InstanceHeader.read(data) for data in FILES]
STUDY = HEADERS[0].study_uid


class ImageStoreContract:
    """Subclasses have a fixture `store`, an empty one."""

    def test_what_was_put_is_read_back(self, store: ImageStore) -> None:
        """Byte for byte, from bytes and from a file, in the order of the series."""
        for header, data in zip(HEADERS[:-1], FILES, strict=False):
            store.put("site", header, data)
        large = store.incoming()
        large.write_bytes(FILES[-1])
        store.put("site", HEADERS[-1], large)
        files = store.instances("site", STUDY)
        assert files == sorted(files)
        assert {path.stem: path.read_bytes() for path in files} == {
            header.sop_instance_uid: data for header, data in zip(HEADERS, FILES, strict=True)
        }
        assert (store.count("site", STUDY), store.studies("site")) == (3, [STUDY])
        assert store.newest("site", STUDY) > 0
        assert not large.exists()

    def test_tenants_do_not_see_each_other(self, store: ImageStore) -> None:
        """A study of one is not there for another."""
        store.put("one", HEADERS[0], FILES[0])
        assert store.instances("other", STUDY) == []
        assert store.studies("other") == []

    def test_the_same_instance_again_changes_nothing(self, store: ImageStore) -> None:
        """Nor in another uncompressed transfer syntax, as a PACS may forward it."""
        dataset = ct_series((1, 8, 8))[0]
        data = encode(dataset)
        header = InstanceHeader.read(data)
        store.put("site", header, data)
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        assert store.put("site", header, encode(dataset)).read_bytes() == data

    def test_other_content_under_a_known_uid_is_a_conflict(self, store: ImageStore) -> None:
        """`Duplicate SOP Instance`, and the old one stays."""
        path = store.put("site", HEADERS[0], FILES[0])
        with pytest.raises(Refused) as caught:
            store.put("site", HEADERS[0], FILES[0][:-2] + b"\xff\x0f")
        assert (caught.value.reason, caught.value.status) == ("instance-conflict", 0x0111)
        assert path.read_bytes() == FILES[0]

    def test_threads_with_one_instance_all_succeed(self, store: ImageStore) -> None:
        """The instance is there once."""
        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(lambda _: store.put("site", HEADERS[0], FILES[0]), range(8)))) == 1
        assert store.count("site", STUDY) == 1

    def test_an_erased_study_is_gone_with_its_notes(self, store: ImageStore) -> None:
        """And may come again; other studies stay."""
        store.put("site", HEADERS[0], FILES[0])
        other = replace(HEADERS[0], study_uid="2.25.7")
        store.put("site", other, FILES[0])
        store.write_note("site", of_study(STUDY, "1.2"), b"step")
        assert store.erase("site", STUDY) == 1
        assert store.notes("site", of_study(STUDY)) == []
        assert store.instances("site", STUDY) == []
        assert store.studies("site") == ["2.25.7"]
        store.put("site", HEADERS[0], FILES[0])
        assert store.count("site", STUDY) == 1

    def test_a_note_is_kept_until_it_is_written_anew(self, store: ImageStore) -> None:
        """Each tenant has its own."""
        assert store.note("site", "orthanc/changes") == b""
        store.write_note("site", "orthanc/changes", b"1")
        store.write_note("site", "orthanc/changes", b"2")
        assert (store.note("site", "orthanc/changes"), store.note("other", "orthanc/changes")) == (b"2", b"")
        store.write_note("site", of_study(STUDY, "1.2"), b"a")
        store.write_note("site", of_study(STUDY, "1.3"), b"b")
        assert store.notes("site", of_study(STUDY)) == [b"a", b"b"]

    @pytest.mark.parametrize("name", ["..", "../x", "a//b", "", "/etc/passwd", "a\0"])
    def test_no_name_leaves_the_store(self, store: ImageStore, name: str) -> None:
        """Neither a tenant, nor a UID, nor a note."""
        for attempt in (
            lambda: store.put(name, HEADERS[0], FILES[0]),
            lambda: store.put("site", replace(HEADERS[0], series_uid=name), FILES[0]),
            lambda: store.instances("site", name),
            lambda: store.studies(name),
            lambda: store.write_note("site", name, b""),
            lambda: store.note(name, "a"),
        ):
            with pytest.raises(Refused, match="invalid-uid"):
                attempt()
