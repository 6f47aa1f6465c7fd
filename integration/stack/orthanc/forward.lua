-- The PACS sends each study on when no more instances of it arrive.
function OnStableStudy(studyId, tags, metadata)
  SendToModality(studyId, 'auscult')
end
