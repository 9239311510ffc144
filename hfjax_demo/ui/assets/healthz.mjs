// Where Gradio renders on the server, its Node process answers first and passes only its own prefixes on to Python:
// /healthz would be a page. This sends it to the route that Python has under such a prefix.
import http from "node:http";

const createServer = http.createServer;
http.createServer = (...parts) => {
  const listener = parts.pop();
  return createServer(...parts, (request, response) => {
    if (request.url.split("?")[0] === "/healthz") request.url = "/gradio_api/healthz";
    return listener(request, response);
  });
};
