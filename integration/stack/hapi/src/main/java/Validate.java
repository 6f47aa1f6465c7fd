import ca.uhn.fhir.context.FhirContext;
import ca.uhn.fhir.context.support.DefaultProfileValidationSupport;
import ca.uhn.fhir.validation.FhirValidator;
import ca.uhn.fhir.validation.ResultSeverityEnum;
import ca.uhn.fhir.validation.SingleValidationMessage;
import ca.uhn.fhir.validation.ValidationResult;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import org.hl7.fhir.common.hapi.validation.support.CommonCodeSystemsTerminologyService;
import org.hl7.fhir.common.hapi.validation.support.InMemoryTerminologyServerValidationSupport;
import org.hl7.fhir.common.hapi.validation.support.UnknownCodeSystemWarningValidationSupport;
import org.hl7.fhir.common.hapi.validation.support.ValidationSupportChain;
import org.hl7.fhir.common.hapi.validation.validator.FhirInstanceValidator;
import org.hl7.fhir.r4.model.CodeSystem;

/**
 * Validates FHIR R4 resources, one a line, and answers each with one line: "> ", the number of errors, then each message
 * as severity, place and text, separated by tabs. Code systems that are not there (LOINC, SNOMED CT) are warnings.
 */
public final class Validate {
  private Validate() {}

  public static void main(String[] arguments) throws Exception {
    FhirContext context = FhirContext.forR4();
    UnknownCodeSystemWarningValidationSupport unknown = new UnknownCodeSystemWarningValidationSupport(context);
    DefaultProfileValidationSupport definitions = new DefaultProfileValidationSupport(context);
    // R4 bundles this code system as it was in 2018; HL7 Terminology has the concept since.
    CodeSystem values =
        (CodeSystem) definitions.fetchCodeSystem("http://terminology.hl7.org/CodeSystem/v3-ObservationValue");
    values.addConcept().setCode("AIAST").setDisplay("Artificial Intelligence asserted");
    ValidationSupportChain support =
        new ValidationSupportChain(
            definitions,
            new CommonCodeSystemsTerminologyService(context),
            new InMemoryTerminologyServerValidationSupport(context),
            unknown);
    FhirInstanceValidator instances = new FhirInstanceValidator(support);
    FhirValidator validator = context.newValidator().registerValidatorModule(instances);
    PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = lines.readLine(); line != null; line = lines.readLine()) {
      out.println(told(validator.validateWithResult(line)));
    }
  }

  private static String told(ValidationResult result) {
    StringBuilder text = new StringBuilder();
    int errors = 0;
    for (SingleValidationMessage message : result.getMessages()) {
      boolean wrong = message.getSeverity().compareTo(ResultSeverityEnum.ERROR) >= 0;
      errors += wrong ? 1 : 0;
      text.append('\t').append(message.getSeverity()).append(' ').append(message.getLocationString()).append(": ");
      text.append(String.valueOf(message.getMessage()).replaceAll("\\s+", " "));
    }
    return "> " + errors + text;
  }
}
