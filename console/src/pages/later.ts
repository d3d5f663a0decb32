import { lazy, type ComponentType } from 'react';

/** Loads what is not part of the first script. */
export const more = () => import('./more.ts');

const Nothing = () => null;

/** A page or a part of one that is not part of the first script, and what is there if it could not be loaded. */
export const later = <P extends object>(choose: (all: Awaited<ReturnType<typeof more>>) => ComponentType<P>, missing: ComponentType<P> = Nothing): ComponentType<P> =>
  lazy(() => more().then((all) => ({ default: choose(all) }), () => ({ default: missing })));
