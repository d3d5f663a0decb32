import { QueryClientProvider } from '@tanstack/react-query';
import { StrictMode } from 'react';
import { createRoot } from 'react-dom/client';
import { takeAnswer } from './api/issuer.ts';
import { queries } from './api/queries.ts';
import { App } from './app.tsx';
import './app.css';

const answer = takeAnswer();

const place = document.getElementById('console');
if (place) {
  createRoot(place).render(
    <StrictMode>
      <QueryClientProvider client={queries}>
        <App answer={answer} />
      </QueryClientProvider>
    </StrictMode>,
  );
}
