window.ui = SwaggerUIBundle({
  url: "/rest/v0/docs/swagger.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  docExpansion: "none",
  filter: true,
  // Else descriptions would be sent to a public service to be judged.
  validatorUrl: null,
});
