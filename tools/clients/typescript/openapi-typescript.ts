// A program of a team that uses openapi-typescript, with openapi-fetch.
import createClient from 'openapi-fetch';
import { type Calls, type Each, type Key, type Problem, Refused, type RegisterRequest, type Same, setting, walk } from './contract';
import type { components, operations, paths } from './generated';

type Schemas = components['schemas'];
export type Checks = Each<
  [
    Same<Schemas['Key'], Key>,
    Same<Schemas['Problem'], Problem>,
    Same<Schemas['RegisterRequest'], RegisterRequest>,
    Same<operations['listKeys']['responses'][200]['content']['application/json']['keys'], Key[]>,
    Same<operations['getKey']['responses'][404]['content']['application/problem+json'], Problem>,
  ]
>;

const client = createClient<paths>({
  baseUrl: setting('AGENTROUTER_BASE_URL'),
  headers: { Authorization: `Bearer ${setting('AGENTROUTER_API_KEY')}` },
});
const project = { customer_id: '-', project_id: '-' };
const keys = '/v1/customers/{customer_id}/projects/{project_id}/aikeys';

const calls: Calls = {
  async register(body) {
    const { data, error } = await client.POST(keys, { params: { path: project }, body });
    if (error) throw new Refused(error);
    return data.key;
  },
  async get(id) {
    const { data, error } = await client.GET(`${keys}/{id}`, { params: { path: { ...project, id } } });
    if (error) throw new Refused(error);
    return data.key;
  },
  async list() {
    const { data, error } = await client.GET(keys, { params: { path: project } });
    if (error) throw new Refused(error);
    return data.keys;
  },
  async revoke(id) {
    const params = { path: { ...project, id }, query: { wait: '5s' } };
    const { data, error } = await client.DELETE(`${keys}/{id}`, { params });
    if (error) throw new Refused(error);
    return data.receipt;
  },
};
await walk(calls);
