// A count and its noun. German gives the plural, English only where it is no plain -s.

export const plural = (n: number, one: string, many = `${one}s`): string => `${n} ${n === 1 ? one : many}`;
