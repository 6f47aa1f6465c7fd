import ca.uhn.fhir.rest.api.EncodingEnum;
import ca.uhn.fhir.rest.server.IncomingRequestAddressStrategy;
import ca.uhn.fhir.rest.server.RestfulServer;
import ca.uhn.fhir.rest.server.provider.ResourceProviderFactory;
import ca.uhn.fhir.context.support.IValidationSupport;
import ca.uhn.fhir.jpa.api.config.JpaStorageSettings;
import ca.uhn.fhir.jpa.api.dao.IFhirSystemDao;
import ca.uhn.fhir.jpa.provider.IJpaSystemProvider;
import ca.uhn.fhir.jpa.provider.JpaCapabilityStatementProvider;
import ca.uhn.fhir.jpa.search.DatabaseBackedPagingProvider;
import ca.uhn.fhir.rest.server.util.ISearchParamRegistry;
import org.apache.catalina.Context;
import org.apache.catalina.startup.Tomcat;
import org.springframework.web.context.WebApplicationContext;
import org.springframework.web.context.support.AnnotationConfigWebApplicationContext;

/** Serves http://127.0.0.1:PORT/fhir until it is ended, and prints READY. Properties: port, work. */
public final class FhirServer {
  private FhirServer() {}

  public static void main(String[] arguments) throws Exception {
    Tomcat tomcat = new Tomcat();
    tomcat.setBaseDir(System.getProperty("work", "work"));
    tomcat.setHostname("127.0.0.1");
    tomcat.getConnector().setPort(Integer.getInteger("port", 18080));
    tomcat.getConnector().setProperty("address", "127.0.0.1");
    Context web = tomcat.addContext("", null);

    AnnotationConfigWebApplicationContext spring = new AnnotationConfigWebApplicationContext();
    spring.setServletContext(web.getServletContext());
    spring.register(Storage.class);
    spring.refresh();
    web.getServletContext().setAttribute(WebApplicationContext.ROOT_WEB_APPLICATION_CONTEXT_ATTRIBUTE, spring);

    Tomcat.addServlet(web, "fhir", rest(spring)).setLoadOnStartup(1);
    web.addServletMappingDecoded("/fhir/*", "fhir");
    tomcat.start();
    System.out.println("READY");
    tomcat.getServer().await();
  }

  private static RestfulServer rest(WebApplicationContext spring) {
    IFhirSystemDao<?, ?> system = spring.getBean(IFhirSystemDao.class);
    RestfulServer server = new RestfulServer(system.getContext());
    server.registerProviders(spring.getBean(ResourceProviderFactory.class).createProviders());
    server.registerProvider(spring.getBean(IJpaSystemProvider.class));
    server.setServerConformanceProvider(
        new JpaCapabilityStatementProvider(
            server,
            system,
            spring.getBean(JpaStorageSettings.class),
            spring.getBean(ISearchParamRegistry.class),
            spring.getBean(IValidationSupport.class)));
    server.setPagingProvider(spring.getBean(DatabaseBackedPagingProvider.class));
    server.setServerAddressStrategy(new IncomingRequestAddressStrategy());
    server.setDefaultResponseEncoding(EncodingEnum.JSON);
    return server;
  }
}
