"""Events in: DICOM instances and the judgement that a study is complete."""
