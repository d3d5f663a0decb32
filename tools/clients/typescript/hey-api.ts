// A program of a team that uses @hey-api/openapi-ts, with the client that it generates.
import { type Calls, type Each, type Key, type Problem, Refused, type RegisterRequest, type Same, setting, walk } from './contract';
import * as generated from './generated';
import { client } from './generated/client.gen';

export type Checks = Each<
  [
    Same<generated.Key, Key>,
    Same<generated.Problem, Problem>,
    Same<generated.RegisterRequest, RegisterRequest>,
    Same<generated.ListKeysResponses[200]['keys'], Key[]>,
    Same<generated.GetKeyErrors[404], Problem>,
  ]
>;

client.setConfig({ baseUrl: setting('AGENTROUTER_BASE_URL'), auth: setting('AGENTROUTER_API_KEY') });
const project = { customer_id: '-', project_id: '-' };

const calls: Calls = {
  async register(body) {
    const { data, error } = await generated.registerKey({ path: project, body });
    if (error) throw new Refused(error);
    return data.key;
  },
  async get(id) {
    const { data, error } = await generated.getKey({ path: { ...project, id } });
    if (error) throw new Refused(error);
    return data.key;
  },
  async list() {
    const { data, error } = await generated.listKeys({ path: project });
    if (error) throw new Refused(error);
    return data.keys;
  },
  async revoke(id) {
    const { data, error } = await generated.revokeKey({ path: { ...project, id }, query: { wait: '5s' } });
    if (error) throw new Refused(error);
    return data.receipt;
  },
};
await walk(calls);
