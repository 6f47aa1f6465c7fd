-- The PACS sends each study on, in one association, when no more instances of it arrive.
function OnStableStudy(studyId, tags, metadata)
  RestApiPost('/modalities/auscult/store', studyId)
end
