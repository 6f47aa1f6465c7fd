"""What a DICOMweb client does; run by the environment that has it."""

from __future__ import annotations

import sys

from dicomweb_client.api import DICOMwebClient
from pydicom import dcmread
from pydicom.dataset import Dataset

url, study, *paths = sys.argv[1:]
client = DICOMwebClient(url)
datasets = [dcmread(path) for path in paths]
answer = client.store_instances(datasets)
assert len(answer.ReferencedSOPSequence) == len(paths)
assert "FailedSOPSequence" not in answer
(found,) = client.search_for_studies(search_filters={"StudyInstanceUID": study})
assert Dataset.from_json(found).NumberOfStudyRelatedInstances == len(paths)
assert client.search_for_studies(search_filters={"PatientName": "Nobody*", "StudyInstanceUID": study}) == []
(series,) = client.search_for_series(study)
uid = Dataset.from_json(series).SeriesInstanceUID
assert len(client.search_for_instances(study, uid)) == len(paths)
assert len(client.retrieve_study_metadata(study)) == len(paths)
fetched = {each.SOPInstanceUID: each for each in client.retrieve_study(study)}
assert {each.SOPInstanceUID: each.PixelData for each in datasets} == {k: v.PixelData for k, v in fetched.items()}
one = client.retrieve_instance(study, uid, datasets[0].SOPInstanceUID)
assert one.PatientName == datasets[0].PatientName
assert len(client.retrieve_series(study, uid)) == len(paths)
assert len(client.search_for_instances(study, uid, limit=2, offset=1, fields=["KVP"], fuzzymatching=True)) == 2
(frame,) = client.retrieve_instance_frames(study, uid, one.SOPInstanceUID, [1])
assert frame == one.PixelData
whole = client.retrieve_series_metadata(study, uid)
(metadata,) = [each for each in whole if each["00080018"]["Value"] == [one.SOPInstanceUID]]
# This client names no port as its Host, so the reference has none.
place = metadata["7FE00010"]["BulkDataURI"].partition("/dicom-web")[2]
assert client.retrieve_bulkdata(f"{url}{place}") == [one.PixelData]
assert metadata == client.retrieve_instance_metadata(study, uid, one.SOPInstanceUID)
