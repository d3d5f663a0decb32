// The reads of the pages. Each is one query with a key, so that a change can say what it makes out of date.
import { keepPreviousData, QueryClient, useInfiniteQuery, useQuery } from '@tanstack/react-query';
import { useSyncExternalStore } from 'react';
import { api, connections, NoAnswer, project, Refusal, unwrap, type Key, type Provider } from './client.ts';

export const queries = new QueryClient({
  defaultOptions: {
    queries: {
      networkMode: 'always',
      staleTime: 2_000,
      gcTime: 10 * 60_000,
      retry: (failures, error) => failures < 2 && (error instanceof NoAnswer || error instanceof Refusal && (error.status === 503 || error.status === 429)),
      retryDelay: (attempt, error) => Math.max(1000 * 2 ** attempt, error instanceof Refusal ? error.retryAfter * 1000 : 0),
      refetchOnWindowFocus: true,
    },
  },
});

export const useConnection = () => useSyncExternalStore(connections.subscribe, connections.get);

/** The project's keys and the caller's own, all pages of them. */
export function useKeys() {
  return useQuery({
    queryKey: ['keys'],
    refetchInterval: 15_000,
    queryFn: async ({ signal }) => {
      const all: Key[] = [];
      let page_token: string | undefined;
      do {
        const page = await unwrap(api.GET('/v1/customers/{customer_id}/projects/{project_id}/aikeys', {
          params: { path: project(), query: { page_token } }, signal,
        }));
        all.push(...page.keys);
        page_token = page.next_page_token;
      } while (page_token && all.length < 10_000);
      return all;
    },
  });
}

export function useKey(id: string, interval: (key: Key | undefined) => number | false = () => false) {
  return useQuery<Key>({
    queryKey: ['key', id],
    refetchInterval: (query) => interval(query.state.data),
    queryFn: async ({ signal }) => (await unwrap(api.GET('/v1/customers/{customer_id}/projects/{project_id}/aikeys/{id}', {
      params: { path: { ...project(), id } }, signal,
    }))).key,
  });
}

/** The servers of the project's own, and whether its owners may add some. */
const readServers = () => unwrap(api.GET('/v1/customers/{customer_id}/projects/{project_id}/providers', { params: { path: project() } }));

export const useServers = () => useQuery({ queryKey: ['servers'], queryFn: readServers });

/**
 * The providers of the catalogue, and the project's own servers in the same form. The secret of a server that takes no key is the word
 * none.
 */
export const useProviders = () => useQuery({
  queryKey: ['providers'],
  staleTime: 10 * 60_000,
  queryFn: async ({ signal }) => [
    ...(await unwrap(api.GET('/v1/providers', { signal }))).providers,
    ...(await readServers()).providers.map((p): Provider => ({
      ...p, secret_format: 'token', prefixes: p.auth_style === 'none' ? ['none'] : [], required_fields: [], key_page_url: '',
    })),
  ],
});

export const usePolicy = () => useQuery({
  queryKey: ['policy'],
  queryFn: async ({ signal }) => (await unwrap(api.GET('/v1/customers/{customer_id}/projects/{project_id}/policy', {
    params: { path: project() }, signal,
  }))).policy,
});

export const useMembers = () => useQuery({
  queryKey: ['members'],
  queryFn: async ({ signal }) => (await unwrap(api.GET('/v1/customers/{customer_id}/projects/{project_id}/members', {
    params: { path: project() }, signal,
  }))).members,
});

/** What the removal of a member would do. */
export const useImpact = (user_id: string) => useQuery({
  queryKey: ['impact', user_id],
  queryFn: ({ signal }) => unwrap(api.GET('/v1/customers/{customer_id}/projects/{project_id}/members/{user_id}/impact', {
    params: { path: { ...project(), user_id } }, signal,
  })),
});

export const useProjects = () => useQuery({
  queryKey: ['projects'],
  queryFn: async ({ signal }) => (await unwrap(api.GET('/v1/projects', { signal }))).projects,
});

export const useTokens = () => useQuery({
  queryKey: ['tokens'],
  queryFn: async ({ signal }) => (await unwrap(api.GET('/v1/tokens', { params: { query: { state: 'active' } }, signal }))).tokens,
});

export const useResolve = (provider: string, user_id?: string) => useQuery({
  queryKey: ['resolve', provider, user_id],
  enabled: provider !== '',
  queryFn: ({ signal }) => unwrap(api.GET('/v1/customers/{customer_id}/projects/{project_id}/resolve', {
    params: { path: project(), query: { provider, explain: true, user_id } }, signal,
  })),
});

export interface EventFilter { key_id?: string; actor?: string; type?: string; outcome?: string; provider?: string; from?: string; to?: string }

/** Reads one page of the audit trail. */
export function readEvents(filter: EventFilter, page_size: number, page_token?: string, signal?: AbortSignal) {
  return unwrap(api.GET('/v1/customers/{customer_id}/projects/{project_id}/events', {
    params: { path: project(), query: { ...filter as object, page_size, page_token } }, signal,
  }));
}

export const useEvents = (filter: EventFilter, page_size = 50) => useInfiniteQuery({
  queryKey: ['events', filter, page_size],
  initialPageParam: undefined as string | undefined,
  placeholderData: keepPreviousData,
  queryFn: ({ pageParam, signal }) => readEvents(filter, page_size, pageParam, signal),
  getNextPageParam: (last) => last.next_page_token,
});

export interface FetchFilter { key_id?: string; user_id?: string; data_plane?: string; provider?: string; decision?: string; from?: string; to?: string }

export const useFetches = (filter: FetchFilter, enabled: boolean, page_size = 50) => useInfiniteQuery({
  queryKey: ['fetches', filter, page_size],
  enabled,
  initialPageParam: undefined as string | undefined,
  placeholderData: keepPreviousData,
  queryFn: ({ pageParam, signal }) => unwrap(api.GET('/v1/customers/{customer_id}/projects/{project_id}/fetches', {
    params: { path: project(), query: { ...filter as object, page_size, page_token: pageParam } }, signal,
  })),
  getNextPageParam: (last) => last.next_page_token,
});

export interface UsageFilter { key_id?: string; user_id?: string; provider?: string; from?: string; to?: string }

/** The usage, all pages up to 5,000 entries. */
export const useUsage = (filter: UsageFilter, enabled = true) => useQuery({
  queryKey: ['usage', filter],
  enabled,
  placeholderData: keepPreviousData,
  queryFn: async ({ signal }) => {
    const all = [];
    let page_token: string | undefined;
    do {
      const page = await unwrap(api.GET('/v1/customers/{customer_id}/projects/{project_id}/usage', {
        params: { path: project(), query: { ...filter, page_token } }, signal,
      }));
      all.push(...page.usage);
      page_token = page.next_page_token;
    } while (page_token && all.length < 5_000);
    return { entries: all, more: page_token !== undefined };
  },
});

/** After a change of keys, what is shown of them is out of date. */
export async function forgetKeys() {
  await Promise.all(['keys', 'key', 'versions', 'resolve', 'events', 'fetches'].map((name) => queries.invalidateQueries({ queryKey: [name] })));
}
