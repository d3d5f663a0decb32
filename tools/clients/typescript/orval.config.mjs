// Where the document is, and where the client goes, come from the command that runs orval. The client asks for the
// service's address when it is used.
export default {
  aikeys: {
    input: process.env.DOCUMENT,
    output: {
      target: process.env.TARGET,
      client: 'fetch',
      baseUrl: { runtime: 'process.env.AGENTROUTER_BASE_URL' },
    },
  },
};
