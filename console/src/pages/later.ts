/** Loads what is not part of the first script. */
export const more = () => import('./more.ts');
