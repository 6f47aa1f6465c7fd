import ca.uhn.fhir.context.FhirContext;
import ca.uhn.fhir.model.api.IModelJson;
import ca.uhn.fhir.parser.StrictErrorHandler;
import ca.uhn.fhir.rest.api.server.cdshooks.CdsServiceRequestContextJson;
import ca.uhn.fhir.rest.api.server.cdshooks.CdsServiceRequestJson;
import ca.uhn.hapi.fhir.cdshooks.api.json.CdsServiceAcceptedSuggestionJson;
import ca.uhn.hapi.fhir.cdshooks.api.json.CdsServiceFeebackOutcomeEnum;
import ca.uhn.hapi.fhir.cdshooks.api.json.CdsServiceFeedbackJson;
import ca.uhn.hapi.fhir.cdshooks.api.json.CdsServiceJson;
import ca.uhn.hapi.fhir.cdshooks.api.json.CdsServiceResponseCardJson;
import ca.uhn.hapi.fhir.cdshooks.api.json.CdsServiceResponseJson;
import ca.uhn.hapi.fhir.cdshooks.api.json.CdsServiceResponseSuggestionJson;
import ca.uhn.hapi.fhir.cdshooks.api.json.CdsServicesJson;
import ca.uhn.hapi.fhir.cdshooks.module.CdsHooksObjectMapperFactory;
import com.fasterxml.jackson.annotation.JsonProperty;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.lang.reflect.Field;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.UUID;

/**
 * A CDS client on HAPI FHIR's own CDS Hooks objects and the JDK's HTTP client, both as they are but for unknown fields,
 * which are refused. It discovers, calls every service at every hook that is listed, and sends feedback on every card.
 *
 * <p>Argument: the base URL. Standard input: {"context": {hook: context}, "prefetch": {key: resource}}. It answers one
 * line a call, "service hook cards systemActions suggestions", and ends with a stack trace where anything is amiss.
 */
public final class StrictClient {
  private static final FhirContext FHIR = FhirContext.forR4();
  private static final HttpClient HTTP = HttpClient.newHttpClient();
  private static ObjectMapper json;

  private StrictClient() {}

  public static void main(String[] arguments) throws Exception {
    FHIR.setParserErrorHandler(new StrictErrorHandler());
    json = new CdsHooksObjectMapperFactory(FHIR).newMapper();
    json.enable(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES);
    json.enable(DeserializationFeature.FAIL_ON_NULL_FOR_PRIMITIVES);
    json.enable(DeserializationFeature.FAIL_ON_READING_DUP_TREE_KEY);
    String base = arguments[0] + "/cds-services";
    JsonNode told = json.readTree(System.in);
    CdsServicesJson services = read(get(base), CdsServicesJson.class);
    for (CdsServiceJson service : services.getServices()) {
      required(service);
      call(base + "/" + service.getId(), service, told);
    }
  }

  private static void call(String url, CdsServiceJson service, JsonNode told) throws Exception {
    CdsServiceRequestJson request = new CdsServiceRequestJson();
    request.setHook(service.getHook());
    request.setHookInstance(UUID.randomUUID().toString());
    JsonNode context = told.get("context").get(service.getHook());
    request.setContext(json.treeToValue(context, CdsServiceRequestContextJson.class));
    for (String key : service.getPrefetch().keySet()) {
      JsonNode resource = told.get("prefetch").get(key);
      if (resource != null) {
        request.addPrefetch(key, FHIR.newJsonParser().parseResource(resource.toString()));
      }
    }
    CdsServiceResponseJson answer = read(post(url, request), CdsServiceResponseJson.class);
    required(answer);
    List<CdsServiceFeedbackJson> outcomes = new ArrayList<>();
    int suggestions = 0;
    for (CdsServiceResponseCardJson card : answer.getCards()) {
      required(card);
      required(card.getSource());
      CdsServiceFeedbackJson outcome = new CdsServiceFeedbackJson().setCard(card.getUuid());
      outcome.setOutcome(CdsServiceFeebackOutcomeEnum.overridden).setOutcomeTimestamp(Instant.now().toString());
      List<CdsServiceResponseSuggestionJson> suggested = card.getSuggestions();
      for (CdsServiceResponseSuggestionJson suggestion : suggested == null ? new ArrayList<CdsServiceResponseSuggestionJson>() : suggested) {
        suggestions++;
        required(suggestion);
        outcome.setOutcome(CdsServiceFeebackOutcomeEnum.accepted);
        outcome.setAcceptedSuggestions(List.of(new CdsServiceAcceptedSuggestionJson().setId(suggestion.getUuid())));
      }
      if (card.getUuid() != null) {
        outcomes.add(outcome);
      }
    }
    if (!outcomes.isEmpty()) {
      post(url + "/feedback", Map.of("feedback", outcomes));
    }
    List<?> actions = answer.getServiceActions() == null ? List.of() : answer.getServiceActions();
    System.out.println(
        String.join(
            "\t",
            service.getId(),
            service.getHook(),
            String.valueOf(answer.getCards().size()),
            String.valueOf(actions.size()),
            String.valueOf(suggestions)));
  }

  /** Jackson's `required` says only what a schema would: here it is held against the value. */
  private static void required(IModelJson told) throws IllegalAccessException {
    for (Field field : told.getClass().getDeclaredFields()) {
      JsonProperty property = field.getAnnotation(JsonProperty.class);
      field.setAccessible(true);
      if (property != null && property.required() && field.get(told) == null) {
        throw new IllegalStateException(told.getClass().getSimpleName() + " has no " + property.value());
      }
    }
  }

  private static <T> T read(String body, Class<T> kind) throws Exception {
    noNulls(json.readTree(body), "$");
    return json.readValue(body, kind);
  }

  private static void noNulls(JsonNode node, String place) {
    if (node.isNull()) {
      throw new IllegalStateException(place + " is null");
    }
    node.properties().forEach(each -> noNulls(each.getValue(), place + "." + each.getKey()));
    if (node.isArray()) {
      node.forEach(each -> noNulls(each, place + "[]"));
    }
  }

  private static String get(String url) throws Exception {
    return sent(HttpRequest.newBuilder(URI.create(url)).build());
  }

  private static String post(String url, Object content) throws Exception {
    return sent(
        HttpRequest.newBuilder(URI.create(url))
            .header("content-type", "application/json")
            .POST(HttpRequest.BodyPublishers.ofString(json.writeValueAsString(content)))
            .build());
  }

  private static String sent(HttpRequest request) throws Exception {
    HttpResponse<String> answer = HTTP.send(request, HttpResponse.BodyHandlers.ofString());
    if (answer.statusCode() != 200) {
      throw new IllegalStateException(request.uri() + ": " + answer.statusCode() + " " + answer.body());
    }
    return answer.body();
  }
}
