// A program of a team that uses orval, with its client for fetch.
import { type Calls, type Each, type Key, type Problem, Refused, type RegisterRequest, type Same, setting, walk } from './contract';
import * as generated from './generated';

export type Checks = Each<
  [
    Same<generated.Key, Key>,
    Same<generated.Problem, Problem>,
    Same<generated.RegisterRequest, RegisterRequest>,
    Same<generated.listKeysResponse200['data']['keys'], Key[]>,
    Same<generated.getKeyResponse404['data'], Problem>,
  ]
>;

const options = { headers: { Authorization: `Bearer ${setting('AGENTROUTER_API_KEY')}` } };

const calls: Calls = {
  async register(body) {
    const reply = await generated.registerKey('-', '-', body, options);
    if (reply.status !== 201) throw new Refused(reply.data);
    return reply.data.key;
  },
  async get(id) {
    const reply = await generated.getKey('-', '-', id, {}, options);
    if (reply.status !== 200) throw new Refused(reply.data);
    return reply.data.key;
  },
  async list() {
    const reply = await generated.listKeys('-', '-', {}, options);
    if (reply.status !== 200) throw new Refused(reply.data);
    return reply.data.keys;
  },
  async revoke(id) {
    const reply = await generated.revokeKey('-', '-', id, { wait: '5s' }, options);
    if (reply.status !== 200) throw new Refused(reply.data);
    return reply.data.receipt;
  },
};
await walk(calls);
